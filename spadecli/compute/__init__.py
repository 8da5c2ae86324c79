"""What everything that computes with torch shares: devices, precision, and helpers for hand-written derivatives."""
