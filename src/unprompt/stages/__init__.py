"""The stages of a run: functions from records to records."""
