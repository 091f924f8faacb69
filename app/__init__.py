"""The process: HTTP edge and wiring. The one package nobody imports."""
