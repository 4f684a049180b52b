"""People are told of failures, and of their end: by e-mail and to an address by HTTP.

What holds (``conditions``) is noted in the table Alerts (``book``), and what has changed since
people were told last is put in words (``messages``) and sent (``channels``). ``Watch`` does it all,
in one process at a time.
"""

from espf.alerts.book import list_alerts
from espf.alerts.channels import Channel, Receipt, send_test
from espf.alerts.conditions import Kind
from espf.alerts.messages import Alert, headline, path
from espf.alerts.watch import Watch

__all__ = (
    "Alert",
    "Channel",
    "Kind",
    "Receipt",
    "Watch",
    "headline",
    "list_alerts",
    "path",
    "send_test",
)
