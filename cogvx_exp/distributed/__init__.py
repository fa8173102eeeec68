"""The processes that share a job: who is there, how they meet, how they exchange values."""
