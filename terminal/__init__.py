"""What the commands share: options, messages, exit codes, progress, and how tables, pictures and files are shown."""
