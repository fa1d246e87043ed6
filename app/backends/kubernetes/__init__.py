"""Kubernetes: clusters whose nodes are containers, and containers in them as pods."""
