"""How files and databases are read into the scratch database, before a mapping makes orders of their rows.

*kinds* recognises what a file is, *plain* gives its text as UTF-8, *lines* is the exact reader of CSV, *head* finds a
file's header, *csv_files*, *parquet_files* and *databases* load, *parts* keeps what they loaded.
"""
