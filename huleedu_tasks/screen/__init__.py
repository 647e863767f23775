"""What a person sees, and what a person is asked."""
