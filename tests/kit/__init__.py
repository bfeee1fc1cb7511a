"""What several tests share: peers in namespaces, compiled kernels, made policies, small swarm tasks."""
