"""RabbitMQ as Laneway uses it: one topology, one publisher, one place where deliveries are settled."""
