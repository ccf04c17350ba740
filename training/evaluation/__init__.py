"""What a head is worth: whatever answers, the data that it is asked, and the figures."""
