"""Jobs on a schedule: triggers, runs that happen once, retries, and reports of failures."""
