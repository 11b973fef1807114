"""What a server can say of itself in numbers: counted where it happens, put into Prometheus' words when it is asked."""
