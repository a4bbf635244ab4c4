"""One self-contained HTML page about segmented scans and training runs, made from their files."""
