"""What a checkpoint holds, and how it is written while training goes on."""
