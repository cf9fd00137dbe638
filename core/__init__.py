"""What every room stands on: errors, files, hashes, result rows. Imports nothing of ours."""
