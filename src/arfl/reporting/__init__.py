"""From records to tables, figures, claims and the report, without torch, a GPU or the data.

`collect` turns a plan and its records into tidy CSV; everything else reads that CSV only.
"""
