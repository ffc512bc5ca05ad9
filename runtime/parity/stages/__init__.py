"""The comparison, one file a stage or two: numbers and limits go into a report. No stage decides what runs after it."""
