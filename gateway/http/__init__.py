"""HTTP/1.1 as both sides of the gateway share it: header fields, chunks, prepared heads, problem documents."""
