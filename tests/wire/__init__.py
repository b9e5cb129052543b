"""What a user of the sidecar is promised, over real sockets against an engine that misbehaves."""
