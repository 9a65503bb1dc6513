"""What the coordinator runs: sessions, storage, the gRPC service, the release. No torch."""
