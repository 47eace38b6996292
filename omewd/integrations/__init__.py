"""What other programs describe and acquire, as streams of omewd; each module is for one of them."""
