"""What `tfgpt bench` runs: each benchmark beside a peer, alternating in one run."""
