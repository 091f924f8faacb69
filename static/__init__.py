"""What browsers load: the SDK (client.js, its types in client.d.ts) and the demo page. Served by app/console.py."""
