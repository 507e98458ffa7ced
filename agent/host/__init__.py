"""The only code that touches the outside: disk, systemd, processes, HTTP probes, journal, clock."""
