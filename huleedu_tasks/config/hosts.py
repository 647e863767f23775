"""What may stand where a host is expected."""

import ipaddress

LONGEST_LABEL = 63
LONGEST_NAME = 253


def is_socket(host: str) -> bool:
    """Whether it is the directory of a server's Unix socket."""
    return host.startswith("/")


def host_of(address: str) -> str:
    """Return the host of an address with a port; the directory of a Unix socket's file."""
    if is_socket(address):
        return address.rpartition("/")[0]
    return address.rpartition(":")[0].strip("[]")


def host_problem(text: str) -> str:
    """Return why a text is not a valid host; empty string if it is one.

    A valid host is a name, an address of IP version 4 or 6, or the directory of a Unix socket.
    """
    if text != text.strip():
        return f"{text!r} {edge_of(text)}"
    if is_socket(text):
        return ""
    if "://" in text:
        return f"{text!r} is a URL: state the host alone"
    if "," in text:
        return f"{text!r} names several hosts: state that of the primary server alone"
    if text.startswith("["):
        return f"{text!r} is in brackets, which only a URL needs: state the address alone"
    if ":" in text:
        return _colon_problem(text)
    return _name_problem(text)


def edge_of(text: str) -> str:
    """Say which white space a text begins or ends with; empty string if none."""
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
            return f"{text!r} has a port in it, which has a variable of its own"
        return f"{text!r} is neither a host name nor an IP address"
    return ""


def _name_problem(text: str) -> str:
    if "@" in text or "/" in text or any(each.isspace() or not each.isprintable() for each in text):
        return f"{text!r} is not a valid host name"
    labels = text.removesuffix(".").split(".")
    if not all(labels):
        return f"{text!r} is not a valid host name: a part between the dots is empty"
    if len(text) > LONGEST_NAME or any(len(label) > LONGEST_LABEL for label in labels):
        return f"{text!r} is longer than a host name may be"
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
