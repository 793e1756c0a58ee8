"""Files and typed fields: what every reader of files is built on."""
