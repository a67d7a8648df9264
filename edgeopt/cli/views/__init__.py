"""Views: tables and text of commands for a terminal."""
