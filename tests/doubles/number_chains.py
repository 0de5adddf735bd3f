# ruff: noqa: E501 - whole replies, a line a paragraph, with the signs that models write
"""Chains of thought in the manner of a small chat model, each with its answer and the numbers that only look like it."""

from __future__ import annotations

CHAINS: list[tuple[str, tuple[str, ...], str]] = [
    # gold, sub-answers, reply
    (
        "42",
        ("7", "6"),
        "Great, let's break this down step by step! 😊\n\nStep 1: How many eggs are in one box?\nAnswer: 7 eggs.\n\nStep 2: How many eggs are in 6 boxes?\nAnswer: 6 x 7 = 42 eggs.\n\nTherefore, Rosa has 42 eggs in 6 boxes. I hope this helps!",
    ),
    (
        "200",
        ("8", "25", "2"),
        "Sure, I'd be happy to help! Here's how we can solve the problem:\n\nHow many laps does Omar run a day? The answer is 8.\n\nEach lap takes 25 minutes, so in all it is 8 x 25 = 200.\n\nTherefore, the answer to the original question is 200 minutes.\n\nLet me know if you have 2 more questions!",
    ),
    (
        "42",
        ("20", "22"),
        "Let's see! 🤔\n\nOn Monday, Ines finds 20 eggs.\nOn Tuesday, she finds 22 eggs.\n\nSo the final answer is:\nShe has 20 + 22 = 42 eggs!",
    ),
    (
        "36",
        ("12", "3", "48"),
        "Of course! Let me help you with that.\n\nLena has 48 beads. She uses 12 beads for a bracelet.\n\nAnswer: 48 - 12 = 36\n\nSo, Lena has 36 beads left. With 36 beads she could make 3 more bracelets! 😊",
    ),
    (
        "15",
        ("60", "4", "45"),
        "1. The train travels 60 miles in 4 hours.\n2. To find the speed, divide the distance by the time: 60 / 4 = 15 miles per hour.\n\nSo, the speed of the train is 15 miles per hour.",
    ),
    (
        "18",
        ("9", "2", "16"),
        "Janna's ducks lay 16 eggs per day. She eats 3 for breakfast and bakes with 4.\n\n16 - 3 - 4 = 9 eggs remain.\n\nShe sells each egg for $2, so she makes 9 x $2 = $18 every day at the market.\n\nI hope that helps! If you have any other questions, feel free to ask.",
    ),
    (
        "70000",
        ("80000", "50000", "150"),
        "The cost of the house and repairs is $80,000 + $50,000 = $130,000.\n\nThe value rose by 150%, so the new value of the house is $80,000 + $120,000 = $200,000.\n\nTherefore, the profit is $200,000 - $130,000 = $70,000.\n\nAnswer: $70,000. Great job! 👍",
    ),
    (
        "540",
        ("3", "180", "60"),
        "James runs 3 sprints 3 times a week. That is 3 x 3 = 9 sprints.\nHe runs 60 meters each sprint.\nSo he runs 9 x 60 = 540 meters a week.\n\nAnswer: James runs 540 meters a week! 🏃",
    ),
    (
        "20",
        ("15", "25", "60", "40"),
        "To determine how many cups Wendy needs for the final meal of the day, let's work out what she has given so far:\n\nMorning: 15 cups\nAfternoon: 25 cups\nTotal so far: 15 + 25 = 40 cups\n\nShe needs 60 cups in all. So the final meal is 60 - 40 = 20 cups.\n\nTherefore, the answer is 20 cups.",
    ),
    (
        "64",
        ("16", "5", "3", "40", "24"),
        "Kyle wants to buy 16 glasses. One glass costs $5, but every second glass costs 60% of the price, which is $3.\n\nAnswer to the first part: 8 x $5 = $40\nAnswer to the second part: 8 x $3 = $24\n\nSo Kyle needs to pay $40 + $24 = $64 for 16 glasses.",
    ),
    (
        "260",
        ("20", "80", "160"),
        "Let's start with Seattle: it has 20 sheep. 🐑\n\nCharleston has 4 times as many: 4 x 20 = 80 sheep.\n\nToulouse has twice as many as Charleston: 2 x 80 = 160 sheep.\n\nSo, together they have 20 + 80 + 160 = 260 sheep! 🐑🐑",
    ),
    (
        "160",
        ("100", "40", "20"),
        "Hello! I'd be glad to help you with this question.\n\nStep 1: Find the time to download 40% of the file. The answer is 40 minutes.\nStep 2: Add the restart, which takes 20 minutes. The answer is 60 minutes.\nStep 3: Download the whole file again, which takes 100 minutes.\n\nIn total it takes 60 + 100 = 160 minutes.\n\nI hope this helps! Let me know if you have any other questions.",
    ),
    (
        "45",
        ("3", "60", "180"),
        "Question: How far is John from home at the end of those 4 hours?\n\nHe drives 3 hours at 60 mph, which is 180 miles. He then turns around and gets 135 miles closer.\n\n180 - 135 = 45\n\nSo John is 45 miles from home at the end of those 4 hours. 🚗",
    ),
    (
        "460",
        ("40", "10", "400"),
        "Great question! Eliza earns $10 for each of the first 40 hours: 40 x $10 = $400.\n\nShe worked 5 more hours at 1.2 times the rate: 5 x $12 = $60.\n\nSo her earnings for the week are $400 + $60 = $460.\n\nThank you for your question! Is there anything else I can help you with? I can do 1 more.",
    ),
    (
        "366",
        ("60", "180", "30"),
        "First month: 60 downloads.\nSecond month: 3 x 60 = 180 downloads.\nThird month: 180 - 30% of 180 = 126 downloads.\n\nNow, let's add them up:\n60 + 180 + 126 = 366\n\nSo the program had a total of 366 downloads over the 3 months.",
    ),
    (
        "694",
        ("68", "80", "6"),
        "Three dozen donuts at $68 each cost 3 x $68 = $204.\nTwo dozen cupcakes at $80 each cost 2 x $80 = $160.\nSix dozen cookies at $55 each cost 6 x $55 = $330.\n\nTherefore, the total cost is $204 + $160 + $330 = $694.\n\n(You asked about 6 dozen cookies; the answer holds for 6.)",
    ),
    (
        "5",
        ("75", "15", "3"),
        "Of course! Here is the solution:\n\n* Ana reads 15 pages a day.\n* The book has 75 pages.\n* 75 ÷ 15 = 5\n\nSo it will take Ana 5 days to read the book. Happy reading! 📚",
    ),
    (
        "18",
        ("6", "3", "12"),
        "Sure thing! Let's do it!\n\nTom has 6 marbles. 🔵\nJerry has 3 times as many marbles as Tom, so...\n\nAnswer: Jerry has 18 marbles! 🎉\n\nRemember, 3 times as many means that you multiply by 3. Keep up the good work!",
    ),
    (
        "7",
        ("35", "5", "28"),
        "We need to find how many bags Mia can fill.\n\nMia has 35 candies and puts 5 candies in each bag.\n\nTo find the number of bags, we divide 35 by 5:\n\n35 / 5 = ?\n\n35 / 5 = 7\n\nSo, Mia can fill 7 bags with 5 candies each.",
    ),
    (
        "12",
        ("84", "7", "11"),
        "Let x be the number of weeks.\n\n7x = 84\n\nDivide both sides by 7:\n\nx = 84 / 7\nx = 12\n\nTherefore, Sam needs 12 weeks to save $84.",
    ),
    (
        "26",
        ("10", "16", "3"),
        "The answer is... 🥁\n\nBen has 10 red cars and 16 blue cars.\n\n10 + 16 = 26\n\nSo Ben has 26 cars in total! Do you want to try 3 more problems like this?",
    ),
    (
        "9",
        ("27", "3", "18"),
        "Here are the steps:\n\n1) Nora has 27 stickers.\n2) She shares them equally with her 2 friends, so there are 3 people.\n3) 27 ÷ 3 = 9\n\nSo, each of the 3 people gets 9 stickers.",
    ),
    (
        "1450",
        ("1200", "250", "5"),
        "Rent: $1,200\nFood: $250\n\nTo find the total, we add the rent and the food:\n\n$1,200 + $250 = $1,450\n\nSo the answer is $1,450. I hope this helps! Let me know if you have 5 more questions.",
    ),
    (
        "30",
        ("10", "20", "50"),
        "The question is: how many apples are left?\n\nThe orchard has 50 apples. 🍎\n\nFirst, 10 apples are sold. Answer: 50 - 10 = 40\nNext, 10 more are eaten. Answer: 40 - 10 = 30\n\nHence, there are 30 apples left. 🍏",
    ),
    (
        "2.5",
        ("5", "2", "10"),
        "To solve this problem, we need to find the time.\n\nDistance = 10 miles\nSpeed = 4 miles per hour\n\nTime = Distance / Speed = 10 / 4 = 2.5 hours\n\nSo it takes Kim two and a half hours, or 2.5 hours, to walk 10 miles.",
    ),
    (
        "104",
        ("52", "2", "365"),
        "There are 52 weeks in a year.\n\nIf Pat swims twice a week, then the number of swims is:\n\n52 weeks/year x 2 swims/week = 104 swims/year\n\nSo, Pat swims 104 times in 1 year.",
    ),
    (
        "16",
        ("4", "12", "20"),
        "Ahoy! 🏴‍☠️ Let's find the treasure!\n\nThe pirate had 20 coins and lost 4 of them.\n\n20 - 4 = 16\n\nSo, the pirate has 16 coins left. Arr!\n\nNote: If the pirate loses 4 more, he will have 12.",
    ),
    (
        "55",
        ("11", "5", "50"),
        "Let's use the information given:\n\n- 11 tables\n- 5 chairs per table\n\nSo, we multiply 11 by 5 to get the number of chairs.\n\n11 x 5 = 55\n\nThe final answer is 55 chairs. ✅",
    ),
    (
        "24",
        ("3", "8", "21"),
        "A: First, I need to know how many boxes there are. Answer: 3.\n\nThen I need to know how many pens are in each box. Answer: 8.\n\nFinally, I multiply: 3 x 8 = 24.\n\nThus, there are 24 pens.",
    ),
    (
        "6",
        ("12", "2", "3"),
        "Half of 12 is 6, so Ella gives 6 cookies to her brother.\n\nThe answer is 6. 🍪\n\nExplanation: Half means that you divide by 2. 12 divided by 2 is 6, and 6 + 6 is 12.",
    ),
    (
        "350",
        ("7", "50", "300"),
        "Okay, let's calculate!\n\n7 days x 50 push-ups/day = 350 push-ups\n\nSo, in 7 days, Leo does 350 push-ups. 💪 Let me know if you would like a plan for the next 7 days!",
    ),
    (
        "14",
        ("42", "3", "28"),
        "The bill is $42. There are 3 friends.\n\nEach friend pays $42 / 3 = $14.\n\nSo the answer is:\n\n**$14** per friend",
    ),
    (
        "8",
        ("5", "13", "18"),
        "Ivy has 13 pencils. She gives 5 to Max.\n\nHow many pencils does Ivy have left?\n\nIvy has 13 - 5 = 8 pencils left.\n\nHow many pencils does Max have if he had 10?\n\nI can answer this too, but you only asked about Ivy. So the answer is 8.",
    ),
    (
        "99",
        ("100", "1", "33"),
        "Wow, what a fun problem! 🤩\n\nThe jar had 100 beans. One bean was eaten.\n\nSo 100 - 1 = 99 beans are left in the jar.\n\nI hope you enjoyed it! Would you like me to do another 1?",
    ),
    (
        "120",
        ("40", "3", "80"),
        "Given:\nPrice of one ticket = $40\nNumber of tickets = 3\n\nTotal = 3 x $40 = $120\n\nTherefore, the family pays $120 for 3 tickets.",
    ),
    (
        "21",
        ("7", "3", "14", "28"),
        "I apologize, but I need to correct myself. My first answer was 28, which is not right.\n\nThere are 7 days in a week, and Zoe drinks 3 cups a day.\n\n7 x 3 = 21\n\nSo the correct answer is 21 cups, not 28.",
    ),
    (
        "65",
        ("60", "5", "13"),
        "Let's denote Grandma's age by G. Mara is 13 years old, and Grandma is 5 times as old.\n\nG = 5 * 13\nG = 65\n\nSo Grandma is 65 years old. Isn't that wonderful? 👵",
    ),
    (
        "4",
        ("16", "12", "3"),
        "Step 1: Start with 16 balloons.\nStep 2: 12 balloons pop. 🎈\nStep 3: Subtract: 16 - 12 = 4.\n\nAnswer: There are 4 balloons left.\n\nThat's it! You have completed all 3 steps.",
    ),
    (
        "75",
        ("300", "25", "225"),
        "The coat costs $300. The discount is 25%.\n\n25% of $300 = 0.25 x $300 = $75\n\nSo the discount is $75. To find the sale price we would subtract it from $300, but the question asks only for the discount.\n\nFinal answer: $75",
    ),
    (
        "11",
        ("22", "2", "33"),
        "There are 22 students in the class. There are 2 students on each team.\n\nSo, the number of teams is 22 ÷ 2 = 11.\n\nAnswer: 11 teams. Please let me know if there is anything else that I can assist you with! My limit is 33 messages.",
    ),
]
