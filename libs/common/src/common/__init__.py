"""What two Laneway services or more share: contracts, messaging, storage clients, lifecycle."""
