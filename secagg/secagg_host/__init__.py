"""What every process needs of its machine: durable files, TLS, configuration, event logs."""
