"""What sets share: prints and sounds of notes, species that evolve."""
