-- Included by scripts that a full server must run as well: they end what was accepted, keep it running, or free memory. A
-- full server refuses a script whose first write takes memory, and lets every later write pass.
redis.call('DEL', KEYS[1] .. ':none')
