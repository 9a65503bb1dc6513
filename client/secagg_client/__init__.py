"""What an institution runs: training, accounting, sealing, upload; and the key-holder."""
