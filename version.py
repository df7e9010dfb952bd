"""The versions, alone in a module so that packaging and `--version` read them without importing anything."""

__version__ = "0.1.0"

RULES_VERSION = 3
"""Version of the rules by which rows are made of a checkpoint: raised when another number or a new one would be stored of the
same files. The macro `current_rules` of the views has it too.
"""

RESULT_RULES_VERSION = 2
"""The same for result files: raised when the same file would give other rows. The macro `current_result_rules` has it too."""
