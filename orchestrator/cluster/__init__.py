"""Machines and Ray: finds resources, starts or joins Ray, submits jobs and checks cluster files."""
