"""Machines and Ray: what they offer, how a Ray is started or joined, jobs, cluster files."""
