"""The processes of a job: ranks, rendezvous and collectives."""
