"""What every request passes before its route: connection limits, access, bodies; and errors."""
