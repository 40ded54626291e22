"""Questions asked of a trained network beyond what `evaluate` answers: one module a question, named as its `study`.

Each has `run(material, params, report) -> Findings`, params the class of `nfk.study_params` with that name. A study
reads what the stages wrote and writes nothing itself; `nfk.stages.study` does.
"""
