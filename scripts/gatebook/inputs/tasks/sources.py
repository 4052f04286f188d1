"""The sources of tasks, by the word after `source:` in the config."""

from gatebook.inputs.tasks import demo, files, induction, ioi

SOURCES = {"demo": demo.Tasks(), "files": files.Tasks(), "induction": induction.Tasks(), "ioi": ioi.Tasks()}
