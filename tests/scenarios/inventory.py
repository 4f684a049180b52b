"""Scenarios of what surrounds the subscriber: devices, numbers, cards, quotas, money, access."""

from scenarios import Scenario

#: Types of these areas that have no scenario yet.
MISSING: frozenset[str] = frozenset(
    {
        "AccessPolicy/Changed",
        "AccessPolicy/Phase/Changed",
        "AccessPolicy/Phase/Deleted",
        "AccessPolicy/Phase/New",
        "Accessibility/Deleted",
        "Accessibility/Inserted",
        "Account/Alias/Delete",
        "Account/FollowMe/Changed",
        "Account/FollowMeNumber/Changed",
        "Account/FollowMeNumber/Deleted",
        "Account/FollowMeNumber/Inserted",
        "Account/IPDeviceAssignment",
        "Account/SIMCardAssignment",
        "Account/Service/Msg/QuotaExceeded",
        "Account/Service/Msg/QuotaExpired",
        "Account/Service/Netaccess/QuotaExceeded",
        "Account/Service/Netaccess/QuotaExpired",
        "Account/Service/QuotaAvailable",
        "Account/Service/QuotaExceeded",
        "Account/Service/QuotaExpired",
        "Connection/Changed",
        "Connection/Deleted",
        "Connection/New",
        "DID/Deleted",
        "DID/New",
        "DID/Status/Activated",
        "DID/Status/Assigned",
        "DID/Status/Canceled",
        "DID/Status/Moved",
        "DID/Status/Unassigned",
        "IPDeviceProfile/New",
        "Invoice/Adjustments/Changed",
        "Invoice/AmountPaid/Changed",
        "Invoice/New",
        "Invoice/Status/Changed",
        "PaymentTransaction/New",
        "PaymentTransaction/ResultCode/Changed",
        "PaymentTransaction/Status/Changed",
        "SIM/Created",
        "SIM/Deleted",
        "SIM/Replaced",
        "SIM/Updated",
    }
)

SCENARIOS: tuple[Scenario, ...] = ()
