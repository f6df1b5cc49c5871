"""What cuts text into pieces that one vector each can stand for."""
