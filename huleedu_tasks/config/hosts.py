"""Validation of host names, IP addresses and Unix sockets."""

import ipaddress

# The names of this machine in a URL, and the addresses at which its servers listen for them.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
THIS_MACHINE = (*LOOPBACK, "0.0.0.0", "::", "")
# The name that containers have for it.
FROM_CONTAINERS = "host.docker.internal"
LONGEST_LABEL = 63
LONGEST_NAME = 253


def is_socket(host: str) -> bool:
    """Whether a host is the directory of a Unix socket."""
    return host.startswith("/")


def host_of(address: str) -> str:
    """Return the host of `HOST:PORT`, or the directory of a Unix socket's file."""
    if is_socket(address):
        return address.rpartition("/")[0]
    return address.rpartition(":")[0].strip("[]")


def host_problem(text: str) -> str:
    """Return why a string is not a valid host; an empty string if it is one.

    A valid host is a name, an address of IP version 4 or 6, or the directory of a Unix socket.
    """
    if text != text.strip():
        return f"{text!r} {edge_of(text)}"
    if is_socket(text):
        return ""
    if "://" in text:
        return f"{text!r} is a URL: state only the host"
    if "," in text:
        return f"{text!r} names several hosts: state only that of the primary server"
    if text.startswith("["):
        return f"{text!r} is in brackets, which only a URL needs: state only the address"
    if ":" in text:
        return _colon_problem(text)
    return _name_problem(text)


def edge_of(text: str) -> str:
    """Return which white space a string begins or ends with; an empty string if none."""
    if text.endswith(("\n", "\r")):
        return "ends with a line break"
    if text != text.rstrip():
        return "ends with white space"
    return "begins with white space" if text != text.lstrip() else ""


def _colon_problem(text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        host, _, port = text.rpartition(":")
        if port.isdecimal() and ":" not in host:
            return f"{text!r} contains a port: set the port in its own variable"
        return f"{text!r} is neither a host name nor an IP address"
    return ""


def _name_problem(text: str) -> str:
    if "@" in text or "/" in text or any(c.isspace() or not c.isprintable() for c in text):
        return f"{text!r} is not a valid host name"
    labels = text.removesuffix(".").split(".")
    if not all(labels):
        return f"{text!r} is not a valid host name: a label between the dots is empty"
    if len(text) > LONGEST_NAME or any(len(label) > LONGEST_LABEL for label in labels):
        return f"{text!r} is too long for a host name"
    if all(label.isdecimal() for label in labels):
        return _address_problem(text)
    is_valid = all(_is_label(label) for label in labels)
    # Docker resolves names with underscores; no top-level domain has one.
    if not is_valid or (len(labels) > 1 and "_" in labels[-1]):
        return f"{text!r} is not a valid host name"
    return ""


def _is_label(label: str) -> bool:
    inner = label.replace("-", "").replace("_", "")
    return bool(inner) and inner.isalnum() and label[0] != "-" and label[-1] != "-"


def _address_problem(text: str) -> str:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return f"{text!r} is not a valid IP address"
    return ""
