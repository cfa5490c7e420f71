"""What a service shares with other machines."""
