"""What a verification found, and its page. Nothing is compared here."""
