"""What a call cost, written down."""
