"""What every room stands on: errors, volumes, files, records, tables."""
