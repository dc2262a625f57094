"""Pure step machines: who is here, what is agreed, whom to ask. They know no clock, no network and no tensors."""
