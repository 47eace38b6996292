"""A stream's specification: what users ask for, validated."""
