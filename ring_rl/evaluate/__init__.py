"""What a policy's returns say: statistics, intervals, files, tables and pictures."""
