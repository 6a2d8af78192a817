"""From torch's joint graph to the torch-free one: facts of operations, lowering, and the way back."""
