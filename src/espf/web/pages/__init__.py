"""The console: pages for administrators, a module per entry of the menu.

Every page has an address that can be shared. What belongs to an environment is below
``/env/<i_env>``, what concerns the whole installation below ``/system``.
"""
