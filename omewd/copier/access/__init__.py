"""Who may copy where: profile files, tables in the configuration, and what no text may show."""
