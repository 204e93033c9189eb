"""Passes that write an operator in another algebraic form, exactly or nearly."""
