"""The words of the report page, each in English and Chinese, and the house's own sentences in Chinese."""

WORDS: dict[str, tuple[str, str]] = {
    "title": ("Privacy report", "隐私报告"),
    "of table": ("A generative model of a table of {count} columns", "一个 {count} 列数据表的生成模型"),
    "of series": (
        "A generative model of time series of {count} channels",
        "一个 {count} 通道时间序列的生成模型",
    ),
    "of image": ("A generative model of images", "一个图像数据的生成模型"),
    "fitted": ("Fitted {date} with privae {version}", "训练于 {date}，privae 版本 {version}"),
    "sections": ("Parts of this report", "报告的各部分"),
    "summary": ("Summary", "摘要"),
    "privacy": ("Privacy", "隐私"),
    "audit": ("Audit", "审计"),
    "utility": ("Utility", "可用性"),
    "data": ("Data", "数据"),
    "reproduce": ("Reproduce", "复现"),
    "holder": ("for the data holder only", "仅供数据持有者"),
    "holder banner": (
        "This page holds parts that were computed on real data, each marked 'for the data holder only'. They are not "
        "covered by the guarantee: do not pass this file on. A version to publish is made with {flag}.",
        "本页含有直接由真实数据算出的内容，均标有“仅供数据持有者”。这些内容不受隐私承诺保护：请勿外传此文件。"
        "可公开的版本用 {flag} 生成。",
    ),
    "public banner": (
        "The version to publish: nothing here was computed on real records, other than what the guarantee covers.",
        "可公开版本：除受隐私承诺保护的内容外，本页没有任何由真实记录算出的内容。",
    ),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "not private": ("NOT PRIVATE", "无隐私保护"),
    "not private why": (
        "This model was fitted without noise (epsilon = inf). Nothing is promised, and the model may reveal its data. "
        "Treat the model, and everything made with it, like the data themselves.",
        "该模型训练时没有加入噪声（epsilon = inf）。没有任何承诺，模型可能泄露其训练数据。"
        "请像对待原始数据一样对待该模型及由它生成的一切。",
    ),
    # summary
    "promised": ("What was promised", "承诺了什么"),
    "sentence": (
        "Adding or removing one {unit} changes the probability of any outcome by at most a factor e{epsilon} plus "
        "{delta} (replacing one: e{replace} plus {delta}).",
        "增加或移除{one}，任何结果的概率至多变为原来的 e{epsilon} 倍再加 {delta}"
        "（替换{one}时：e{replace} 倍再加 {delta}）。",
    ),
    "in plain words": (
        "In plain words: somebody who knows every other {unit}, has this model, and wants to know whether one given "
        "{unit} was in the data, guesses right at most {guess} of the time. A coin is right 50 % of the time.",
        "通俗地说：即使有人掌握了其余所有{unit}，并拿到这个模型，想判断某{one}是否在数据中，"
        "猜对的机会至多为 {guess}。抛硬币猜对的机会是 50 %。",
    ),
    "unit caution": (
        "The promise is made to each {unit}. A person with several records is protected less.",
        "承诺针对每{one}。若一个人拥有多条记录，其受到的保护会减弱。",
    ),
    "at a glance": ("At a glance", "一览"),
    "the promise": ("The promise", "隐私承诺"),
    "the audit": ("The audit", "审计结论"),
    "strong": ("Strong", "强"),
    "moderate": ("Moderate", "中等"),
    "weak": ("Weak", "弱"),
    "none": ("None", "无"),
    "passed": ("Passed", "通过"),
    "failed": ("FAILED", "未通过"),
    "not run": ("Not run", "未进行"),
    "strong why": (
        "Epsilon {epsilon} is at most 1, a strong promise",
        "epsilon {epsilon} 不超过 1，属于强承诺",
    ),
    "moderate why": (
        "Epsilon {epsilon} lies between 1 and 10, a reasonable promise but no strong one",
        "epsilon {epsilon} 介于 1 与 10 之间，是合理的承诺，但不算强",
    ),
    "weak why": (
        "Epsilon {epsilon} is above 10: the promise alone says little, look at the audit",
        "epsilon {epsilon} 大于 10：仅凭承诺本身说明不了多少，请参看审计",
    ),
    "tiers": ("(levels after arXiv 2303.00654).", "（分级依据 arXiv 2303.00654）。"),
    "delta large": (
        "Delta {delta} is not below 1 / rows ({rows} declared): choose a smaller one.",
        "delta {delta} 不小于 1 / 行数（声明了 {rows} 行）：应选更小的值。",
    ),
    "audit passed why": (
        "Attacks run: {count}. None contradicts the promise.",
        "共进行 {count} 项攻击，没有一项与承诺相矛盾。",
    ),
    "attacks succeeded": (
        "Attacks run: {count}, of which {bad} succeeded.",
        "共进行 {count} 项攻击，其中 {bad} 项成功。",
    ),
    "contradicted": (
        "The promise is contradicted, or copies were found. Do not release this model.",
        "与承诺相矛盾，或发现了复制。请勿发布该模型。",
    ),
    "do not release": ("Do not release this model.", "请勿发布该模型。"),
    "audit none why": (
        "No attack was run, so the promise rests on its proof alone. Run: privae audit",
        "没有进行任何攻击，承诺仅以证明为依据。请运行：privae audit",
    ),
    "audit public none why": (
        "No finding that may be published travels with this model; findings on real records stay with the data holder.",
        "该模型没有附带可公开的审计结果；针对真实记录的结果由数据持有者保存。",
    ),
    "audit promise none": (
        "Attacks run: {count}. None succeeded; yet nothing is promised, so others may.",
        "共进行了 {count} 项攻击，均未成功；但由于没有任何承诺，其他攻击仍可能成功。",
    ),
    "no attack": ("Not tested", "未测试"),
    "no attack why": ("No attack through this channel was run.", "没有进行经由该途径的攻击。"),
    "no attack public why": (
        "No attack whose findings may be published was run through this channel.",
        "没有进行经由该途径且结果可公开的攻击。",
    ),
    "skipped count": (
        "Not run: {count}; the audit part says why.",
        "另有 {count} 项无法进行，原因见审计部分。",
    ),
    "channel data": (
        "What a transcript of the training, a gradient or a released statistic gives away.",
        "训练过程记录、梯度或所发布的统计量会泄露什么。",
    ),
    "channel parameters": (
        "What somebody can tell who holds the model file itself.",
        "持有模型文件本身的人能看出什么。",
    ),
    "channel samples": (
        "What somebody can tell who only sees synthetic data.",
        "只看到合成数据的人能看出什么。",
    ),
    "not covered": ("What is not covered", "不在承诺范围内的内容"),
    "other model": (
        "This audit was made of another model: its plan has another hash. Audit this model again.",
        "该审计针对的是另一个模型：其计划的哈希值不同。请重新审计本模型。",
    ),
    # privacy
    "epsilon": ("epsilon", "epsilon"),
    "delta": ("delta", "delta"),
    "add or remove": ("one added or removed", "增加或移除一个"),
    "replace": ("one replaced", "替换一个"),
    "chance": ("added to every probability", "加在每个概率上"),
    "accountant is": ("accountant: {name}", "核算方法：{name}"),
    "both relations": ("Epsilon for both relations", "两种相邻关系下的 epsilon"),
    "both why": (
        "Two tables are neighbors if one has a {unit} more, or if one {unit} is exchanged. Other tools quote either; "
        "compare like with like.",
        "两个数据表“相邻”，指一个比另一个多{one}，或者替换了{one}。不同工具采用的定义不同，请按同一定义比较。",
    ),
    "waterfall": ("Where the budget went", "预算的去向"),
    "waterfall why": (
        "Each phase of the fit releases noisy sums, and this is what the phases cost one after the other. What is done "
        "with the released numbers afterwards (sampling, scoring) costs nothing.",
        "训练的每个阶段发布带噪声的总和；下面依次列出各阶段的花费。此后对所发布数值的使用（采样、评分）不再花费预算。",
    ),
    "phase": ("phase", "阶段"),
    "share of budget": ("share of mu²", "占 mu² 的份额"),
    "total": ("total", "合计"),
    "noise multiplier": ("noise multiplier", "噪声倍数"),
    "sampling rate": ("sampling rate", "采样率"),
    "steps": ("steps", "步数"),
    "numbers": ("numbers released each step", "每步发布的数值个数"),
    "trade-off": ("What any attacker can reach at best", "任何攻击者至多能做到什么"),
    "trade-off why": (
        "An attacker who wants few false alarms must miss most members. No test of whether one {unit} was in the data, "
        "however clever, gets below these curves.",
        "攻击者要想少误报，就必然漏掉大多数成员。无论多么高明，任何判断某{one}是否在数据中的检验都无法低于这些曲线。",
    ),
    "false alarms": ("false-alarm rate", "误报率"),
    "misses": ("miss rate", "漏报率"),
    "curve promise": ("at (epsilon, delta), as promised", "按承诺的 (epsilon, delta)"),
    "curve gaussian": ("exactly, as one Gaussian with mu = {mu}", "精确值：单个高斯机制，mu = {mu}"),
    "curve guess": ("blind guessing", "盲猜"),
    "no curve": (
        "Nothing is promised, so there is no curve: an attacker may be always right.",
        "没有承诺，因此没有曲线：攻击者可能每次都猜对。",
    ),
    "at least missed": ("members missed at least", "至少漏掉的成员"),
    "events": ("Ledger: what was charged, before it was released", "账本：发布之前记下的花费"),
    "entry": ("entry", "条目"),
    "date": ("date", "日期"),
    "so far": ("epsilon so far", "累计 epsilon"),
    "hash": ("hash", "哈希"),
    "more entries": ("Only the first {count} entries are listed.", "只列出前 {count} 条。"),
    "other plans": (
        "This ledger also holds other fits of the same data: together they cost epsilon {epsilon}.",
        "该账本还记录了同一数据的其他训练：合计花费 epsilon {epsilon}。",
    ),
    "delta parts": ("What delta is made of", "delta 的构成"),
    "part": ("part", "部分"),
    "accountant part": ("noise, by the accountant", "噪声（由核算得出）"),
    "threshold part": ("a bought category that one {unit} alone holds", "仅属于{one}的类别被发布的概率"),
    "sampler part": (
        "distance of the noise sampler from an ideal Gaussian",
        "噪声采样器与理想高斯分布的距离",
    ),
    # audit
    "audit why": (
        "We tried to break the model. An attack shows an epsilon that the model has at least; if the promise is kept, "
        "that stays below the accounted one. Power is the most that an attack could have shown: where it is low, a low "
        "bound proves little.",
        "我们尝试攻破该模型。攻击给出模型 epsilon 的下界；正确的实现其下界低于核算的 epsilon。"
        "功效是该攻击最多能证明的值：功效低时，下界低也说明不了多少。",
    ),
    "audit facts": (
        "Level: {level}. All findings hold together at {confidence}. It took {seconds} s, on {date}. "
        "Hold-out: {holdout}.",
        "级别：{level}；所有结果同时成立的置信度：{confidence}；用时 {seconds} 秒，日期 {date}；留出集：{holdout}。",
    ),
    "quick": ("quick", "快速"),
    "standard": ("standard", "标准"),
    "deep": ("deep", "深入"),
    "holdout given": ("given", "已提供"),
    "holdout split": ("split off before the fit", "训练前划出"),
    "holdout none": ("none", "无"),
    "bounds chart": ("Shown by attacks, beside what was accounted", "攻击所证明的下界与核算值对照"),
    "accounted": ("accounted, an upper bound", "核算值（上界）"),
    "lower bound": ("lower bound shown", "证明的下界"),
    "power mark": ("power: the most it could have shown", "功效：最多能证明的值"),
    "bounds figures": ("Figures: lower bound shown / power.", "数值：证明的下界 / 功效。"),
    "channels": ("Where the attacker looks", "攻击途径"),
    "value": ("value", "数值"),
    "interval": ("interval", "区间"),
    "power": ("power", "功效"),
    "confidence": ("confidence", "置信度"),
    "source": ("source: {source}", "出处：{source}"),
    "measure": ("measure", "度量"),
    "result": ("result", "结果"),
    "attack": ("attack", "攻击"),
    "all findings": ("All findings", "全部结果"),
    "channel": ("channel", "途径"),
    "no power": ("bounds no epsilon", "不给出 epsilon 下界"),
    "power shown": ("at most epsilon ≥ {power}", "至多 epsilon ≥ {power}"),
    "roc": ("ROC of {attack}, both axes logarithmic", "{attack} 的 ROC 曲线（双对数坐标）"),
    "hits": ("share of members found", "命中的成员比例"),
    "attack curve": ("this attack", "该攻击"),
    "allowed": ("most that the promise allows", "承诺所允许的上限"),
    "at false alarms": ("members found at {fpr} false alarms", "误报率 {fpr} 时命中的成员"),
    "skipped": ("Not run, and why", "未进行及原因"),
    # utility
    "utility why": (
        "How close the synthetic data come to the real ones. These figures are taken from real records without noise.",
        "合成数据与真实数据有多接近。这些数值直接取自真实记录，没有加噪声。",
    ),
    "real": ("real", "真实"),
    "synthetic": ("synthetic", "合成"),
    "nearest": ("synthetic above the nearest real", "合成图像（上）与最近的真实图像（下）"),
    "figures": ("In figures", "数值"),
    "marginals": ("Columns one by one", "逐列分布"),
    "distance": ("distance {tv}", "距离 {tv}"),
    "marginals why": (
        "Shares of real and synthetic records. The distance is total variation: 0 is alike, 1 has nothing in common.",
        "真实与合成记录的占比。距离为总变差：0 表示相同，1 表示毫无共同之处。",
    ),
    "pairs": ("Pairs of columns", "列与列的关系"),
    "pairs why": (
        "Distance between the real and the synthetic table of each two columns: the stronger the color, the worse.",
        "每两列联合分布在真实与合成数据之间的距离；颜色越浓越差。",
    ),
    "ramp": ("from 0 to {highest}", "从 0 到 {highest}"),
    "worst pairs": ("The pairs furthest apart", "差距最大的列对"),
    "pair": ("pair", "列对"),
    "total variation": ("total variation", "总变差"),
    "images": ("Images", "图像"),
    "train on synthetic": ("Train on synthetic, test on real", "用合成数据训练，在真实数据上测试"),
    "train on synthetic why": (
        "The same learner, trained on either data and tested on the same real records.",
        "同一种学习器，分别用两种数据训练，在相同的真实记录上测试。",
    ),
    "label of": (
        "Label: {label}. Measure: {measure}; guessing gives {guess}. Tested on: {tested}.",
        "标签：{label}。度量：{measure}；盲猜为 {guess}。测试于：{tested}。",
    ),
    "learner": ("learner", "学习器"),
    "trained on real": ("trained on real", "用真实数据训练"),
    "trained on synthetic": ("trained on synthetic", "用合成数据训练"),
    "distances": ("Distances at a glance", "距离一览"),
    "distances why": (
        "The baseline is the same figure between two halves of the real records: perfect data reach it, not 0.",
        "基线是同一指标在真实记录两半之间的值：完美的合成器能达到基线，而不是 0。",
    ),
    "compared": ("Records compared: {compared}.", "参与比较的记录数：{compared}。"),
    "baseline": ("baseline", "基线"),
    "figure": ("figure", "指标"),
    "marginals mean": ("columns, mean distance", "各列的平均距离"),
    "marginals worst": ("columns, worst", "最差的列"),
    "pixels mean": ("pixels, mean distance", "各像素的平均距离"),
    "pixels worst": ("pixels, worst", "最差的像素"),
    "pairs mean": ("pairs of columns, mean distance", "列对的平均距离"),
    "pairs worst": ("pairs of columns, worst", "最差的列对"),
    "correlation mean_difference": ("correlations, mean difference", "相关性的平均差异"),
    "frechet value": ("Frechet distance, squared", "Frechet 距离（平方）"),
    "detection logistic": (
        "told apart by logistic regression, AUC (0.5 is best)",
        "逻辑回归的辨别 AUC（0.5 最好）",
    ),
    "detection boosting": ("told apart by boosting, AUC (0.5 is best)", "提升树的辨别 AUC（0.5 最好）"),
    "not computed": ("Not computed: {reason}.", "未计算：{reason}。"),
    # data
    "data why": ("The schema: public facts, declared before the fit.", "数据模式：训练前声明的公开事实。"),
    "bought why": (
        "Categories that were not declared were bought: released with noise, under the guarantee.",
        "未声明的类别是购得的：在隐私承诺之下带噪声发布。",
    ),
    "column": ("column", "列"),
    "kind": ("kind", "类型"),
    "values": ("values", "取值"),
    "gaps": ("gaps", "缺失值"),
    "note": ("remarks", "备注"),
    "numeric": ("numeric", "数值"),
    "category": ("category", "类别"),
    "ordinal": ("ordinal", "有序类别"),
    "boolean": ("boolean", "布尔"),
    "label": ("label", "标签"),
    "dropped": ("not learned", "不学习"),
    "bought": ("bought", "购得"),
    "and more": ("and {count} more", "另有 {count} 个"),
    "size": ("size in pixels", "像素尺寸"),
    "classes": ("classes", "类别"),
    "fact": ("fact", "事实"),
    "rows": ("rows, declared roughly", "行数（粗略声明）"),
    "not declared": ("not declared", "未声明"),
    # reproduce
    "commands": ("Commands", "命令"),
    "commands why": (
        "Noise is secret and drawn anew: another fit gives another model with the same guarantee, charged again.",
        "噪声保密且每次重新抽取，因此重新训练会得到另一个模型（承诺相同），并再次计入花费。",
    ),
    "versions": ("Versions", "版本"),
    "name": ("name", "名称"),
    "version": ("version", "版本"),
    "hashes": ("Hashes", "哈希值"),
    "of what": ("of", "对象"),
    "plan": ("plan", "计划"),
    "schema": ("schema", "数据模式"),
    "ledger head": ("ledger head", "账本末端"),
    "plan text": ("The plan in full", "计划全文"),
    "json note": (
        "Every number of this page is in its JSON (the element with the id figures).",
        "本页的每个数值都在页内 JSON 中（id 为 figures 的元素）。",
    ),
}

HOUSE: dict[str, str] = {
    "the schema, the plan and the number of rows you declared: they are public choices": (
        "数据模式、计划以及您声明的行数：它们是公开的选择"
    ),
    "files and screens of the data holder: error messages about the data, progress, timing": (
        "数据持有者自己的文件与屏幕：有关数据的报错、进度、耗时"
    ),
    "the noise key is assumed secret and its AES-256-CTR keystream pseudorandom": (
        "假定噪声密钥保密，且其 AES-256-CTR 密钥流是伪随机的"
    ),
    "facts about groups: what is true of many records may be learned about each of them": (
        "关于群体的事实：对许多记录都成立的规律，可能被用于推断其中每一个"
    ),
    "other fits of the same data, unless all of them share one ledger; trying settings out is a fit too": (
        "对同一数据的其他训练，除非它们共用一个账本；试验参数也算一次训练"
    ),
    "that a fit was refused: for the size of its data, a file that did not read, or a column that names people": (
        "因数据规模、文件无法读取或某列可识别个人而拒绝训练这一事实"
    ),
    "the code and the first weights of a network of your own": "自备网络的代码与初始权重",
    "strict: that the fit was not refused says that every value fitted the schema": (
        "strict：训练未被拒绝，说明所有取值都符合数据模式"
    ),
    "floating-point summation of gradients in float32": "梯度以 float32 求和时的浮点误差",
    "a record's own gradient may depend on its place in the batch through rounding, which a kink of a network "
    "can enlarge": "由于舍入，一条记录自身的梯度可能依赖于它在批次中的位置，网络的折点会放大这一差异",
    "categories": "购买类别",
    "pair tables": "两列联合频数表",
    "norms": "向量长度",
    "axes": "主轴",
    "class prior": "各类先验",
    "residual decoder": "残差解码器",
    "label counts": "标签计数",
    "gradients": "梯度",
    "exact Gaussian": "精确高斯",
    "held-out rows": "留出的记录",
    "half of the real rows": "一半真实记录",
    "accuracy": "准确率",
    "risk": "风险",
    "share of rows": "行的比例",
    "share of members": "成员的比例",
    "share of generated rows": "生成行的比例",
    "share of values": "取值的比例",
    "share of ends": "端点的比例",
    "parts that differ": "不同的部分数",
    "share of records recovered": "被恢复记录的比例",
    "logistic": "逻辑回归",
    "boosting": "提升树",
    "epsilon lower bound": "epsilon 下界",
}
